-- Queues dead letters again, all or none.
--
-- ARGV: 1, 2   channel and message of the wake-up
--       3, 4   maximum jobs and bytes of the shard
--       5-     ids
--
-- Returns how many dead letters were replayed, or -1 if there is no room for them.
local jobs, bytes = totals()
local letters, new_bytes = {}, 0
for at = 5, #ARGV do
  local id = ARGV[at]
  local fields = call('HMGET', dead_key(id), 'lane', 'bytes', 'tenant')
  if fields[1] then
    letters[#letters + 1] = { id = id, lane = fields[1], bytes = tonumber(fields[2] or '0'), tenant = fields[3] or '' }
    new_bytes = new_bytes + letters[#letters].bytes
  end
end
if jobs + #letters > tonumber(ARGV[3]) or bytes + new_bytes > tonumber(ARGV[4]) then return -1 end
for _, letter in ipairs(letters) do
  call('ZREM', deaths_key, letter.id)
  if letter.tenant ~= '' then call('ZREM', deaths_key .. ':' .. letter.tenant, letter.id) end
  -- The message may have been published again since, and then is queued already.
  if call('EXISTS', job_key(letter.id)) == 1 then
    call('UNLINK', dead_key(letter.id))
  else
    call('RENAME', dead_key(letter.id), job_key(letter.id))
    call('HDEL', job_key(letter.id), 'dead', 'died', 'attempts', 'failures', 'token', 'first')
    local lane = lane_of(letter.lane)
    push_back(lane, letter.id)
    count(letter.tenant, 1, letter.bytes)
    schedule(lane)
  end
end
finish({ channel = ARGV[1], message = ARGV[2] })
return #letters
