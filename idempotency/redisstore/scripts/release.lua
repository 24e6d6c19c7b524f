-- KEYS: record.
-- ARGV: owner, fence.
local r = redis.call('HMGET', KEYS[1], 'o', 'f', 'd')
if r[1] ~= ARGV[1] or r[2] ~= ARGV[2] then return 'ok' end
if r[3] then return 'lost' end
redis.call('DEL', KEYS[1])
return 'ok'
