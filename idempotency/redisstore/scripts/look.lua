-- KEYS: record.
-- Returns the time left of the lease of a pending record in milliseconds, or 0 for any other.
local record = redis.call('GETRANGE', KEYS[1], 0, 51)
if #record ~= 52 or string.byte(record) ~= 80 then return 0 end
local left = redis.call('PTTL', KEYS[1])
if left == -1 then return 2^40 end -- an operator has removed its expiry
return math.max(0, left - struct.unpack('>I7', record, 46))
