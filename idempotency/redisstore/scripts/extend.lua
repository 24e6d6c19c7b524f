-- KEYS: record.
-- ARGV: the first bytes of the pending record of the lease, the new lease in milliseconds.
-- Returns 0 if the lease is lost.
local record = redis.call('GETRANGE', KEYS[1], 0, 51)
if #record ~= 52 or string.sub(record, 1, 20) ~= ARGV[1] then return 0 end
local ttl = tonumber(ARGV[2]) + struct.unpack('>I7', record, 46)
if ttl > redis.call('PTTL', KEYS[1]) then redis.call('PEXPIRE', KEYS[1], ttl) end
return 1
