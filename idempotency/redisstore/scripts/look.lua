-- KEYS: record.
-- Returns for how many milliseconds a pending record is kept, or 0.
if redis.call('GETRANGE', KEYS[1], 0, 0) ~= '\1' then return 0 end
local left = redis.call('PTTL', KEYS[1])
if left == -1 then return 2 * ABANDONED end -- somebody has made it last for good
return left
