-- KEYS: record.
-- ARGV: fence and owner as they are in a record, for how many milliseconds the
-- record is kept.
local record = redis.call('GET', KEYS[1])
if not record or string.sub(record, 1, 17) ~= 'p' .. ARGV[1]
  or string.sub(record, 66, 65 + #ARGV[2]) ~= ARGV[2] then return 'lost' end
if tonumber(ARGV[3]) > redis.call('PTTL', KEYS[1]) then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
return 'ok'
