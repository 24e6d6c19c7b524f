-- KEYS: record.
-- ARGV: what the pending record of the lease begins with.
-- Returns 0 if the record is another's, or done.
local record = redis.call('GET', KEYS[1])
if not record then return 1 end
if #record ~= 44 or string.sub(record, 1, 20) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
return 1
