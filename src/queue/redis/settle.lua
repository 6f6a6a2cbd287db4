-- Takes leases back with their verdicts. ARGV: channel, message, most leases of a lane, the delays of probes in µs
-- with commas between them, delivered messages to remember; then for each lease its id and token, what becomes of the
-- job (done, dropped, retry, dead, back), what was learnt of the endpoint (well, failed, paused, nothing, not asked: no retry is used up), µs from
-- now until a retry, the attempt or '', what is said of the dead. Stale tokens are passed over: settled before, or
-- ran out. Answers {jobs, bytes}.
local most, remembered = tonumber(ARGV[3]), tonumber(ARGV[5])
local MOST_ATTEMPTS = 10
local delays
local function probe_delay(probes)
  if not delays then
    delays = {}
    for delay in string.gmatch(ARGV[4], '%d+') do delays[#delays + 1] = tonumber(delay) end
  end
  return delays[math.min(probes, #delays)]
end

local learn = {
  nothing = function() end,
  ['not asked'] = function() end,
  well = function(lane)
    if lane.probes >= 0 then lane.limit, lane.probes, lane.closed_until = START, -1, 0 end
    lane.failures, lane.succeeded = 0, 1
    lane.limit = math.min(lane.limit + 1, most)
  end,
  paused = function(lane, delay)
    lane.probes = math.max(lane.probes, 0)
    lane.closed_until = math.max(lane.closed_until, now + delay)
  end,
  failed = function(lane)
    lane.limit = math.max(math.floor(lane.limit / 2), 1)
    lane.failures = lane.failures + 1
    if lane.probes >= 0 then
      -- An attempt from before the breaker opened says nothing new.
      if now < lane.closed_until then return end
      lane.probes = lane.probes + 1
    elseif lane.failures < BREAKER_FAILURES then
      return
    else
      lane.probes = 1
    end
    lane.closed_until = now + probe_delay(lane.probes)
  end,
}

local function with_attempt(attempts, attempt)
  if attempt == '' then return attempts end
  attempts = attempts == '' and attempt or (attempts .. '\n' .. attempt)
  local _, breaks = string.gsub(attempts, '\n', '')
  if breaks >= MOST_ATTEMPTS then attempts = string.sub(attempts, string.find(attempts, '\n', 1, true) + 1) end
  return attempts
end

local become = {
  dropped = function(job)
    call('UNLINK', job_key(job.id))
    count(job.tenant, -1, -job.bytes)
  end,
  done = function(job)
    call('UNLINK', job_key(job.id))
    count(job.tenant, -1, -job.bytes)
    if remembered > 0 then
      call('SET', tag .. ':done:' .. job.id, job.record .. '\n' .. job.attempts)
      if call('RPUSH', tag .. ':history', job.id) > remembered then
        call('UNLINK', tag .. ':done:' .. call('LPOP', tag .. ':history'))
      end
    end
  end,
  dead = function(job, lane, delay, said)
    count(job.tenant, -1, -job.bytes)
    call('RENAME', job_key(job.id), dead_key(job.id))
    local died = math.floor(now / 1000)
    call('HSET', dead_key(job.id), 'dead', said, 'died', whole(died), 'attempts', job.attempts)
    call('HDEL', dead_key(job.id), 'token', 'failures', 'first')
    call('ZADD', deaths_key, whole(died), job.id)
    if job.tenant ~= '' then call('ZADD', deaths_key .. ':' .. job.tenant, whole(died), job.id) end
  end,
  retry = function(job, lane, delay, _, learnt)
    local failures = job.failures + (learnt == 'not asked' and 0 or 1)
    call('HSET', job_key(job.id), 'failures', whole(failures), 'attempts', job.attempts)
    call('HDEL', job_key(job.id), 'token')
    if failures == 0 then call('HDEL', job_key(job.id), 'first') end
    local due = now + delay
    if lane.ordered == 1 then
      lane.head_due = due
      to_front(lane, job.id)
    else
      call('ZADD', aside_key(lane), whole(due), job.id)
      if lane.aside_due == 0 or due < lane.aside_due then lane.aside_due = due end
      counts.delayed = counts.delayed + 1
    end
  end,
  -- Nobody took it.
  back = function(job, lane)
    call('HDEL', job_key(job.id), 'token')
    if job.failures == 0 then call('HDEL', job_key(job.id), 'first') end
    to_front(lane, job.id)
  end,
}

local settled = {}
for at = 6, #ARGV, 7 do
  local id = ARGV[at]
  local found = call('HMGET', job_key(id), 'token', 'lane', 'tenant', 'bytes', 'failures', 'attempts', 'record')
  if found[1] == ARGV[at + 1] then
    local lane, delay = lane_of(found[2]), tonumber(ARGV[at + 4])
    local job = { id = id, tenant = found[3] or '', bytes = tonumber(found[4] or '0'),
      failures = tonumber(found[5] or '0'), record = found[7] or '',
      attempts = with_attempt(found[6] or '', ARGV[at + 5]) }
    settled[#settled + 1] = id
    lane.leased = math.max(lane.leased - 1, 0)
    learn[ARGV[at + 3]](lane, delay)
    become[ARGV[at + 2]](job, lane, delay, ARGV[at + 6], ARGV[at + 3])
    place(lane)
  end
end
if #settled > 0 then call('ZREM', leases_key, unpack(settled)) end
finish({ channel = ARGV[1], message = ARGV[2] })
local jobs, bytes = totals()
return { jobs, bytes }
