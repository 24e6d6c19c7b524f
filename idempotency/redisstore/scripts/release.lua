#!lua flags=allow-oom
-- KEYS: record.
-- ARGV: what the pending record of the lease begins with, for how many milliseconds a
-- possible effect is remembered, whether the run may have had one (1 or 0; 2 is for an
-- operator, who is told if the record is not pending any more).
-- Returns 0 if the record is another's, or done.
local record, sub, had = redis.call('GET', KEYS[1]), string.sub, ARGV[3]
local gone = had == '2' and 0 or 1
if not record then return gone end
if #record < 69 then return 0 end
if string.byte(record) == 82 then return gone end
if sub(record, 1, 20) ~= ARGV[1] then return 0 end
local effect, keep = struct.unpack('>I1I7', record, 45)
if effect == 0 and had == '0' then
  redis.call('DEL', KEYS[1])
else
  local released = 'R' .. sub(record, 2, 8) .. string.rep('\0', 12) .. sub(record, 21, 44) .. '\1' .. sub(record, 46)
  redis.call('SET', KEYS[1], released, 'PX', math.max(tonumber(ARGV[2]), keep))
end
return 1
