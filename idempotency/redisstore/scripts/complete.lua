#!lua flags=allow-oom
-- KEYS: record.
-- ARGV: the first bytes of the pending record of the lease, the retention in milliseconds, the
-- outcome.
-- Returns 0 if the lease is lost.
local record, lease, sub = redis.call('GET', KEYS[1]), ARGV[1], string.sub
if not record or #record < 69 or sub(record, 2, 20) ~= sub(lease, 2) then return 0 end
local kind = string.byte(record)
if kind == 80 then
  redis.call('SET', KEYS[1], 'D' .. sub(record, 2, 69 + string.byte(record, 69)) .. ARGV[3], 'PX', ARGV[2])
elseif kind ~= 68 then -- unless the owner repeats the step after a lost answer
  return 0
end
return 1
