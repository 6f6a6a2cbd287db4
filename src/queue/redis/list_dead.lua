-- Lists dead letters without bodies, ordered by time of death and id.
--
-- ARGV: 1      tenant or ''
--       2, 3   earliest and latest time of death in ms, as ZRANGEBYSCORE takes them
--       4, 5   time of death and id after which the list starts, or ''
--       6      maximum number
--
-- Returns { id, time of death, record, cause of death, bytes, tenant } for each.
local key = ARGV[1] == '' and deaths_key or (deaths_key .. ':' .. ARGV[1])
local after_time, after_id, max = ARGV[4], ARGV[5], tonumber(ARGV[6])
local found, offset = {}, 0
while #found < max do
  local page = call('ZRANGEBYSCORE', key, ARGV[2], ARGV[3], 'WITHSCORES', 'LIMIT', offset, max)
  for at = 1, #page, 2 do
    local id, died = page[at], page[at + 1]
    local before = after_id ~= '' and tonumber(died) == tonumber(after_time) and id <= after_id
    if not before and #found < max then
      local fields = call('HMGET', dead_key(id), 'record', 'dead', 'bytes', 'tenant')
      found[#found + 1] = { id, died, fields[1] or '', fields[2] or '', fields[3] or '0', fields[4] or '' }
    end
  end
  if #page < 2 * max then break end
  offset = offset + max
end
return found
