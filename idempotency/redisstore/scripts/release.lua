-- KEYS: record.
-- ARGV: fence and owner as they are in a record.
local record = redis.call('GET', KEYS[1])
if not record then return 'ok' end
if string.sub(record, 1, 17) ~= 'p' .. ARGV[1]
  or string.sub(record, 66, 65 + #ARGV[2]) ~= ARGV[2] then return 'lost' end
redis.call('DEL', KEYS[1])
return 'ok'
