-- KEYS: record.
-- ARGV: fence and owner as they are in a record.
local record = redis.call('GET', KEYS[1])
if not record or string.sub(record, 2, 17) ~= ARGV[1]
  or string.sub(record, 66, 65 + #ARGV[2]) ~= ARGV[2] then return 'ok' end
if string.sub(record, 1, 1) == 'd' then return 'lost' end
redis.call('DEL', KEYS[1])
return 'ok'
