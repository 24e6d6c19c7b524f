-- KEYS: record.
-- ARGV: the first bytes of the record, whether its lease must have expired (1 or 0).
-- Deletes the record. Returns 0 if the record has changed or its lease has not expired.
local record = redis.call('GETRANGE', KEYS[1], 0, 51)
if #record ~= 52 or string.sub(record, 1, 20) ~= ARGV[1] then return 0 end
if ARGV[2] == '1' then
  local left = redis.call('PTTL', KEYS[1])
  if left == -1 or left > struct.unpack('>I7', record, 46) then return 0 end
end
return redis.call('DEL', KEYS[1])
