#!lua flags=allow-oom
-- KEYS: record.
-- ARGV: what the record of the lease begins with, for how many milliseconds it is
-- kept, outcome.
-- Returns 0 if the record is not the owner's any more.
local call, key = redis.call, KEYS[1]
local record = call('GET', key)
if not record or string.find(record, ARGV[1], 1, true) ~= 1 then return 0 end
if #record == 44 then
  call('SET', key, record .. 'd' .. ARGV[3], 'PX', ARGV[2])
elseif string.byte(record, 45) ~= 100 then -- it is corrupt, unless it was completed before and the answer lost
  return 0
end
return 1
