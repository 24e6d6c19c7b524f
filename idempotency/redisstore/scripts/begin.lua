-- KEYS: record, fences of the record's hash tag.
-- ARGV: owner and fingerprint as they are in a record, for how many milliseconds
-- the record is kept if nobody extends it, and how many of these are after its
-- lease.
-- A record that is there, and is not to be taken over, is returned as it is.
local call, key, owner, fingerprint, kept = redis.call, KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local fence = string.format('%016.0f', call('INCR', KEYS[2]))
local claim = 'p' .. fence .. fingerprint .. owner
local record = call('SET', key, claim, 'NX', 'GET', 'PX', kept)
if not record then return 'c' .. fence end
local left = call('PTTL', key) -- -1 if somebody has made it last for good
if string.sub(record, 1, 1) ~= 'p'
  or string.sub(record, 66, 65 + #owner) == owner
  or left == -1 or left > tonumber(ARGV[4]) then return record end
local schema = string.sub(fingerprint, 1, 16)
if schema ~= string.rep('\0', 16) and schema == string.sub(record, 18, 33)
  and string.sub(fingerprint, 17) ~= string.sub(record, 34, 65) then return record end
call('SET', key, claim, 'PX', kept)
return 't' .. fence
