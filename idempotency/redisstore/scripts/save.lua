#!lua flags=allow-oom
-- KEYS: record.
-- ARGV: the first bytes of the pending record of the lease, an unused number, the checkpoint.
-- Returns 0 if the lease is lost.
local record, sub = redis.call('GET', KEYS[1]), string.sub
if not record or #record < 69 or sub(record, 1, 20) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], sub(record, 1, 69 + string.byte(record, 69)) .. ARGV[3], 'KEEPTTL')
return 1
