-- KEYS: record, fences of the record's hash tag.
-- ARGV: owner and fingerprint as they are in a record, for how many milliseconds
-- the record is kept if nobody extends it, and how many of these are after its
-- lease.
-- A record that is there, and is not to be taken over, is returned as it is.
local fence = string.format('%016.0f', redis.call('INCR', KEYS[2]))
local claim = 'p' .. fence .. ARGV[2] .. ARGV[1]
local record = redis.call('SET', KEYS[1], claim, 'NX', 'GET', 'PX', ARGV[3])
if not record then return 'c' .. fence end
local left = redis.call('PTTL', KEYS[1]) -- -1 if somebody has made it last for good
if string.sub(record, 1, 1) ~= 'p'
  or string.sub(record, 66, 65 + #ARGV[1]) == ARGV[1]
  or left == -1 or left > tonumber(ARGV[4]) then return record end
local schema = string.sub(ARGV[2], 1, 16)
if schema ~= string.rep('\0', 16) and schema == string.sub(record, 18, 33)
  and string.sub(ARGV[2], 17) ~= string.sub(record, 34, 65) then return record end
redis.call('SET', KEYS[1], claim, 'PX', ARGV[3])
return 't' .. fence
