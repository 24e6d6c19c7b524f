-- KEYS: record.
-- Returns for how many microseconds the record may be pending.
local r = redis.call('HMGET', KEYS[1], 'u', 'd')
if not r[1] or r[2] then return '0' end
local t = redis.call('TIME')
return string.format('%.0f', (tonumber(r[1]) or 0) - (t[1] * 1000000 + t[2]))
