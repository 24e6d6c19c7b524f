-- KEYS: record.
-- ARGV: what the pending record of the lease begins with, for how many milliseconds
-- the lease lasts.
-- Returns 0 if the record is not the owner's any more.
local record = redis.call('GETRANGE', KEYS[1], 0, 51)
if #record ~= 52 or string.sub(record, 1, 20) ~= ARGV[1] then return 0 end
local kept = tonumber(ARGV[2]) + struct.unpack('>I7', record, 46)
if kept > redis.call('PTTL', KEYS[1]) then redis.call('PEXPIRE', KEYS[1], kept) end
return 1
