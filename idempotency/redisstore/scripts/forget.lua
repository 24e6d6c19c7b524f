-- KEYS: record.
-- ARGV: what the record begins with.
-- Deletes the record. Returns 0 if it is another by now.
local record = redis.call('GETRANGE', KEYS[1], 0, 19)
if record ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
