-- Reads dead letters in order, without bodies. ARGV: tenant or '', since and until (ms, or infinite), the time of death
-- and the id after which to begin or '', how many. Answers {id, died, record, dead, bytes, tenant} for each.
local key = ARGV[1] == '' and deaths_key or (deaths_key .. ':' .. ARGV[1])
local after_time, after_id, most = ARGV[4], ARGV[5], tonumber(ARGV[6])
local found, offset = {}, 0
while #found < most do
  local slice = call('ZRANGEBYSCORE', key, ARGV[2], ARGV[3], 'WITHSCORES', 'LIMIT', offset, most)
  for at = 1, #slice, 2 do
    local id, died = slice[at], slice[at + 1]
    local before = after_id ~= '' and tonumber(died) == tonumber(after_time) and id <= after_id
    if not before and #found < most then
      local dead = call('HMGET', dead_key(id), 'record', 'dead', 'bytes', 'tenant')
      found[#found + 1] = { id, died, dead[1] or '', dead[2] or '', dead[3] or '0', dead[4] or '' }
    end
  end
  if #slice < 2 * most then break end
  offset = offset + most
end
return found
