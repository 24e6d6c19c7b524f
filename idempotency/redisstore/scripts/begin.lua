-- KEYS: record, fences of the record's hash tag.
-- ARGV: owner and fingerprint as they are in a record, for how many milliseconds
-- the record is kept if nobody extends it.
-- A new record is answered with its fence, one that is taken over with its fence
-- below zero, and any other is returned as it is.
local call, key, claim, kept = redis.call, KEYS[1], ARGV[1], ARGV[2]
local fence = redis.pcall('INCR', KEYS[2])
if type(fence) == 'table' then return call('GET', key) or fence end -- an error, as there is no memory for what is new
local made = struct.pack('>I1I7', 1, fence) .. claim
if call('SET', key, made, 'NX', 'PX', kept) then return fence end
local record, sub = call('GET', key), string.sub
if #record ~= 44 then return record end -- it is done, or corrupt
if sub(record, 9, 20) == sub(claim, 1, 12) then return record end -- its owner asks again
local version, theirFence = struct.unpack('>I1I7', record)
if version ~= 1 or theirFence < 1 or theirFence > 2^53 then return record end -- it is corrupt
local left = call('PTTL', key) -- -1 if somebody has made it last for good
if left == -1 or left > ABANDONED then return record end
local ours, theirs = sub(claim, 13), sub(record, 21)
if ours ~= theirs and sub(ours, 1, 8) == sub(theirs, 1, 8) then return record end
call('SET', key, made, 'PX', kept)
return -fence
