-- KEYS: record.
-- Returns the record and the time that it lives, in milliseconds, or nothing.
local record = redis.call('GET', KEYS[1])
if not record then return false end
return {record, redis.call('PTTL', KEYS[1])}
