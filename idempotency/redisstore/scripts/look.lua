-- KEYS: record.
-- Returns for how many milliseconds a pending record is kept, or 0.
if redis.call('GETRANGE', KEYS[1], 0, 0) ~= 'p' then return 0 end
return redis.call('PTTL', KEYS[1])
