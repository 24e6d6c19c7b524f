#!lua flags=allow-oom
-- KEYS: record.
-- ARGV: what the pending record of the lease begins with, for how many milliseconds
-- it is kept, outcome.
-- Returns 0 if the record is not the owner's any more.
local record, lease, sub = redis.call('GET', KEYS[1]), ARGV[1], string.sub
if not record or #record < 69 or sub(record, 2, 20) ~= sub(lease, 2) then return 0 end
local kind = string.byte(record)
if kind == 80 then
  redis.call('SET', KEYS[1], 'D' .. sub(record, 2, 69 + string.byte(record, 69)) .. ARGV[3], 'PX', ARGV[2])
elseif kind ~= 68 then -- unless it was completed before, and the answer lost
  return 0
end
return 1
