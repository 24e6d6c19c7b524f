-- KEYS: record, fences of the record's hash tag.
-- ARGV: what a record has of a claim, for how many milliseconds the record is kept if
-- nobody extends it.
-- A new record is answered with its fence, one that is taken over with its fence
-- below zero, and any other is returned as it is.
local redis, keys, args = redis, KEYS, ARGV -- globals are slow
local call, key, claim, kept = redis.call, keys[1], args[1], args[2]
local fence, made, refusal = redis.pcall('INCR', keys[2])
if type(fence) == 'table' then -- as there is no memory for what is new
  refusal = fence
elseif fence < 1 or fence >= 2^53 then
  refusal = redis.error_reply('ERR the counter ' .. keys[2] .. ' has left its range')
else
  made = struct.pack('>I1I7', 1, fence) .. claim
  if call('SET', key, made, 'NX', 'PX', kept) then return fence end
end
local record, sub = call('GET', key), string.sub
if not record then return refusal end
if #record ~= 52 or sub(record, 9, 20) == sub(claim, 1, 12) then return record end -- it is done or corrupt, or its owner asks again
local kind, theirFence = struct.unpack('>I1I7', record)
if kind ~= 1 and kind ~= 3 or theirFence < 1 or theirFence >= 2^53 then return record end
if kind == 1 then
  local left = call('PTTL', key) -- -1 if somebody has made it last for good
  if left == -1 or left > struct.unpack('>I7', record, 46) then return record end
end
local ours, theirs = sub(claim, 13, 36), sub(record, 21, 44)
if ours ~= theirs and sub(ours, 1, 8) == sub(theirs, 1, 8) then return record end
if refusal then return refusal end
call('SET', key, sub(made, 1, 44) .. '\1' .. sub(made, 46), 'PX', kept) -- an earlier run may have had an effect
return -fence
