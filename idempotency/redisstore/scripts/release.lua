-- KEYS: record.
-- ARGV: what the pending record of the lease begins with, for how many milliseconds a
-- possible effect is remembered, whether the run may have had one (1 or 0).
-- Returns 0 if the record is another's, or done.
local record, sub = redis.call('GET', KEYS[1]), string.sub
if not record then return 1 end
if #record ~= 52 then return 0 end
if string.byte(record) == 3 then return 1 end
if sub(record, 1, 20) ~= ARGV[1] then return 0 end
local effect, keep = struct.unpack('>I1I7', record, 45)
if effect == 0 and ARGV[3] == '0' then
  redis.call('DEL', KEYS[1])
else
  local released = '\3' .. sub(record, 2, 8) .. string.rep('\0', 12) .. sub(record, 21, 44) .. '\1' .. sub(record, 46)
  redis.call('SET', KEYS[1], released, 'PX', math.max(tonumber(ARGV[2]), keep))
end
return 1
