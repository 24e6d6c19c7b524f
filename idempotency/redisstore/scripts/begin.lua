-- KEYS: record.
-- ARGV: what a record has of a claim: owner, fingerprint, keep, key hash, method; for how
-- many milliseconds the record is kept if nobody extends it.
-- A new record is answered with its fence, and any other, also one that was taken over,
-- with the record as it is then.
local redis, key, claim, kept = redis, KEYS[1], ARGV[1], ARGV[2] -- globals are slow
local call, sub = redis.call, string.sub
local time = call('TIME')
local fence, millis = time[1] * 1000000 + time[2], time[1] * 1000 + math.floor(time[2] / 1000)
local made = struct.pack('>BI7', 80, fence) .. sub(claim, 1, 44) .. struct.pack('>I2I6', 1, millis) .. sub(claim, 45)
local set = redis.pcall('SET', key, made, 'NX', 'PX', kept)
if set and set.ok then return fence end
local record = call('GET', key)
if not record then return set end -- there is no memory for it
if #record < 69 or sub(record, 9, 20) == sub(claim, 1, 12) then return record end -- it is corrupt, or its owner asks again
local kind, theirFence = struct.unpack('>BI7', record)
local head = 69 + string.byte(record, 69)
if kind ~= 80 and kind ~= 82 or theirFence < 1 or theirFence >= 2^53 or #record < head then return record end -- it is done or corrupt
if kind == 80 then
  local left = call('PTTL', key) -- -1 if somebody has made it last for good
  if left == -1 or left > struct.unpack('>I7', record, 46) then return record end
end
local ours, theirs = sub(claim, 13, 36), sub(record, 21, 44)
if ours ~= theirs and sub(ours, 1, 8) == sub(theirs, 1, 8) then return record end
if set then return set end
local attempts, created = struct.unpack('>I2I6', record, 53)
record = struct.pack('>BI7', 80, math.max(fence, theirFence + 1)) .. sub(claim, 1, 36) .. '\1' .. sub(claim, 38, 44) -- an earlier run may have had an effect
  .. struct.pack('>I2I6', math.min(attempts + 1, 65535), created) .. sub(claim, 45) .. sub(record, head + 1) -- and the checkpoint stays
call('SET', key, record, 'PX', kept)
return record
