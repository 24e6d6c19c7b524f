-- KEYS: record.
-- ARGV: whether to return the outcome, too (1 or 0).
-- Returns the record, its time to live and the server's time, both in milliseconds, or nothing if
-- there is no record.
local record = redis.call('GET', KEYS[1])
if not record then return false end
if ARGV[1] == '0' and #record >= 69 and string.byte(record) == 68 then
  record = string.sub(record, 1, 69 + string.byte(record, 69))
end
local time = redis.call('TIME')
return {record, redis.call('PTTL', KEYS[1]), time[1] * 1000 + math.floor(time[2] / 1000)}
