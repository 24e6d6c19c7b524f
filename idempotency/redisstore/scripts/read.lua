-- KEYS: record.
-- ARGV: whether the outcome is wanted (1 or 0).
-- Returns the record, the time that it lives and the server's time, both in
-- milliseconds, or nothing.
local record = redis.call('GET', KEYS[1])
if not record then return false end
if ARGV[1] == '0' and #record >= 69 and string.byte(record) == 68 then
  record = string.sub(record, 1, 69 + string.byte(record, 69))
end
local time = redis.call('TIME')
return {record, redis.call('PTTL', KEYS[1]), time[1] * 1000 + math.floor(time[2] / 1000)}
