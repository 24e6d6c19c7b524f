-- KEYS: record, fences of the record's hash tag.
-- ARGV: owner and fingerprint as they are in a record, for how many milliseconds
-- the record is kept if nobody extends it.
-- A new record is answered with its fence, one that is taken over with its fence
-- below zero, and any other is returned as it is.
local call, key, claim, kept = redis.call, KEYS[1], ARGV[1], ARGV[2]
local fence = redis.pcall('INCR', KEYS[2])
if type(fence) == 'table' then return call('GET', key) or fence end -- an error, as there is no memory for what is new
local made = 'p' .. string.format('%016.0f', fence) .. claim
local record = call('SET', key, made, 'NX', 'GET', 'PX', kept)
if not record then return fence end
local sub, owner = string.sub, 2 + 256 * string.byte(claim, 1) + string.byte(claim, 2)
if sub(record, 1, 1) ~= 'p' or sub(record, 18, 17 + owner) == sub(claim, 1, owner) then return record end
local theirOwner = 2 + 256 * (string.byte(record, 18) or 0) + (string.byte(record, 19) or 0)
if #record ~= 17 + theirOwner + 48 or not string.find(record, '^p' .. string.rep('%d', 16)) then return record end -- it is corrupt
local left = call('PTTL', key) -- -1 if somebody has made it last for good
if left == -1 or left > ABANDONED then return record end
local ours, theirs = sub(claim, owner + 1), sub(record, -48)
if sub(ours, 1, 16) ~= string.rep('\0', 16) and ours ~= theirs and sub(ours, 1, 16) == sub(theirs, 1, 16) then return record end
call('SET', key, made, 'PX', kept)
return -fence
