-- KEYS: record.
-- ARGV: owner, fence, outcome, retention in microseconds.
local r = redis.call('HMGET', KEYS[1], 'o', 'f', 'd')
if r[1] ~= ARGV[1] or r[2] ~= ARGV[2] then return 'lost' end
if r[3] then return 'ok' end
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
redis.call('HSET', KEYS[1], 'd', '1', 'r', ARGV[3], 'u', string.format('%.0f', now + ARGV[4]))
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', ARGV[4] / 1000 + 1))
return 'ok'
