#!lua flags=allow-oom
-- KEYS: record.
-- ARGV: what the pending record begins with, outcome, retention in milliseconds.
-- Returns 0 if the record is not the owner's any more.
local call, key, sub, begin = redis.call, KEYS[1], string.sub, ARGV[1]
local record = call('GET', key)
if not record then return 0 end
if sub(record, 1, #begin) == begin then
  if #record ~= #begin + 48 then return 0 end -- it is corrupt, as the next claim will be told
  call('SET', key, 'd' .. sub(record, 2) .. ARGV[2], 'PX', ARGV[3])
elseif sub(record, 1, #begin) ~= 'd' .. sub(begin, 2) then -- it was completed before, and the answer lost
  return 0
end
return 1
