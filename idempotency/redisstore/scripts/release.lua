#!lua flags=allow-oom
-- KEYS: record.
-- ARGV: the first bytes of the pending record of the lease, for how many milliseconds a possible
-- effect is remembered, whether the run may have had one (1 or 0; 2 is 1 for an operator, who gets 0
-- if the record is not pending).
-- Returns 0 if the record has another owner or is done.
local record, sub, effectArg = redis.call('GET', KEYS[1]), string.sub, ARGV[3]
local gone = effectArg == '2' and 0 or 1
if not record then return gone end
if #record < 69 then return 0 end
if string.byte(record) == 82 then return gone end
if sub(record, 1, 20) ~= ARGV[1] then return 0 end
local effect, keep = struct.unpack('>I1I7', record, 45)
if effect == 0 and effectArg == '0' then
  redis.call('DEL', KEYS[1])
else
  local released = 'R' .. sub(record, 2, 8) .. string.rep('\0', 12) .. sub(record, 21, 44) .. '\1' .. sub(record, 46)
  redis.call('SET', KEYS[1], released, 'PX', math.max(tonumber(ARGV[2]), keep))
end
return 1
