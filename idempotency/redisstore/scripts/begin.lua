-- KEYS: record.
-- ARGV: the claim's part of a record: owner, fingerprint, keep, key hash, method; the time to
-- live of the record in milliseconds, which is its lease and keep.
-- Returns the fence of a new record. Otherwise it returns the record as it is after the claim.
local redis, key, claim, ttl = redis, KEYS[1], ARGV[1], ARGV[2] -- globals are slow
local call, sub = redis.call, string.sub
local time = call('TIME')
local fence, millis = time[1] * 1000000 + time[2], time[1] * 1000 + math.floor(time[2] / 1000)
local made = struct.pack('>BI7', 80, fence) .. sub(claim, 1, 44) .. struct.pack('>I2I6', 1, millis) .. sub(claim, 45)
local set = redis.pcall('SET', key, made, 'NX', 'PX', ttl)
if set and set.ok then return fence end
local record = call('GET', key)
if not record then return set end -- Redis has no memory for it
if #record < 69 or sub(record, 9, 20) == sub(claim, 1, 12) then return record end -- it is corrupt, or its owner asks again
local kind, theirFence = struct.unpack('>BI7', record)
local head = 69 + string.byte(record, 69)
if kind ~= 80 and kind ~= 82 or theirFence < 1 or theirFence >= 2^53 or #record < head then return record end -- it is done or corrupt
if kind == 80 then
  local left = call('PTTL', key) -- -1 if an operator has removed its expiry
  if left == -1 or left > struct.unpack('>I7', record, 46) then return record end
end
local ours, theirs = sub(claim, 13, 36), sub(record, 21, 44)
if ours ~= theirs and sub(ours, 1, 8) == sub(theirs, 1, 8) then return record end
if set then return set end
local attempts, created = struct.unpack('>I2I6', record, 53)
record = struct.pack('>BI7', 80, math.max(fence, theirFence + 1)) .. sub(claim, 1, 36) .. '\1' .. sub(claim, 38, 44) -- an earlier run may have had an effect
  .. struct.pack('>I2I6', math.min(attempts + 1, 65535), created) .. sub(claim, 45) .. sub(record, head + 1) -- the checkpoint stays
call('SET', key, record, 'PX', ttl)
return record
