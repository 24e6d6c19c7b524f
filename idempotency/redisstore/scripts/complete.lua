#!lua flags=allow-oom
-- KEYS: record.
-- ARGV: fence and owner as they are in a record, outcome, retention in
-- milliseconds.
local call, key, sub, owner = redis.call, KEYS[1], string.sub, ARGV[2]
local record = call('GET', key)
if not record or sub(record, 2, 17) ~= ARGV[1] or sub(record, 66, 65 + #owner) ~= owner then return 'lost' end
if sub(record, 1, 1) == 'd' then return 'ok' end
call('SET', key, 'd' .. sub(record, 2) .. ARGV[3], 'PX', ARGV[4])
return 'ok'
