#!lua flags=allow-oom
-- KEYS: record.
-- ARGV: what the pending record of the lease begins with, for how many milliseconds
-- it is kept, outcome.
-- Returns 0 if the record is not the owner's any more.
local args = ARGV -- globals are slow
local call, key, find, lease = redis.call, KEYS[1], string.find, args[1]
local record = call('GET', key)
if not record then return 0 end
if #record == 52 and find(record, lease, 1, true) == 1 then
  call('SET', key, '\2' .. record .. args[3], 'PX', args[2])
elseif #record < 53 or string.byte(record) ~= 2 or find(record, lease, 2, true) ~= 2 then -- unless it was completed before, and the answer lost
  return 0
end
return 1
