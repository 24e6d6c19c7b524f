#!lua flags=allow-oom
-- KEYS: record.
-- ARGV: what the pending record of the lease begins with, for how many milliseconds
-- it is kept, outcome.
-- Returns 0 if the record is not the owner's any more.
local call, key, sub, lease = redis.call, KEYS[1], string.sub, ARGV[1]
local record = call('GET', key)
if not record then return 0 end
local begin = sub(record, 1, 20)
if begin == lease and #record == 44 then
  call('SET', key, '\2' .. sub(record, 2) .. ARGV[3], 'PX', ARGV[2])
elseif begin ~= '\2' .. sub(lease, 2) then -- unless it was completed before, and the answer lost
  return 0
end
return 1
