-- KEYS: record.
-- ARGV: what the pending record of the lease begins with, for how many milliseconds
-- it is kept.
-- Returns 0 if the record is not the owner's any more.
local record = redis.call('GET', KEYS[1])
if not record or #record ~= 44 or string.sub(record, 1, 20) ~= ARGV[1] then return 0 end
if tonumber(ARGV[2]) > redis.call('PTTL', KEYS[1]) then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 1
