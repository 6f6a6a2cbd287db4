-- Queues dead letters again, all or none. ARGV: channel, message, most jobs, most bytes, then ids. Answers how many,
-- or -1 where there is no room for them.
local jobs, bytes = totals()
local found, more = {}, 0
for at = 5, #ARGV do
  local id = ARGV[at]
  local dead = call('HMGET', dead_key(id), 'lane', 'bytes', 'tenant')
  if dead[1] then
    found[#found + 1] = { id = id, lane = dead[1], bytes = tonumber(dead[2] or '0'), tenant = dead[3] or '' }
    more = more + found[#found].bytes
  end
end
if jobs + #found > tonumber(ARGV[3]) or bytes + more > tonumber(ARGV[4]) then return -1 end
for _, dead in ipairs(found) do
  call('ZREM', deaths_key, dead.id)
  if dead.tenant ~= '' then call('ZREM', deaths_key .. ':' .. dead.tenant, dead.id) end
  -- Where it was published again meanwhile it is queued already.
  if call('EXISTS', job_key(dead.id)) == 1 then
    call('UNLINK', dead_key(dead.id))
  else
    call('RENAME', dead_key(dead.id), job_key(dead.id))
    call('HDEL', job_key(dead.id), 'dead', 'died', 'attempts', 'failures', 'token', 'first')
    local lane = lane_of(dead.lane)
    to_back(lane, dead.id)
    count(dead.tenant, 1, dead.bytes)
    place(lane)
  end
end
finish({ channel = ARGV[1], message = ARGV[2] })
return #found
