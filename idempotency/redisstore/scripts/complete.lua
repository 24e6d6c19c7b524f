#!lua flags=allow-oom
-- KEYS: record.
-- ARGV: fence and owner as they are in a record, outcome, retention in
-- milliseconds.
local record = redis.call('GET', KEYS[1])
if not record or string.sub(record, 2, 17) ~= ARGV[1]
  or string.sub(record, 66, 65 + #ARGV[2]) ~= ARGV[2] then return 'lost' end
if string.sub(record, 1, 1) == 'd' then return 'ok' end
redis.call('SET', KEYS[1], 'd' .. string.sub(record, 2) .. ARGV[3], 'PX', ARGV[4])
return 'ok'
