-- Settles leases with their verdicts. A lease whose token is stale is skipped: it was settled before, or it expired.
--
-- ARGV: 1, 2   channel and message of the wake-up
--       3      maximum concurrency of a lane
--       4      delays between probes in µs, separated by commas
--       5      number of delivered messages to remember
--       6-     for each lease: id, token,
--              outcome for the job (done, dropped, retry, dead, returned),
--              outcome for the endpoint (succeeded, failed, paused, unknown, not_contacted),
--              µs until the retry, the attempt as JSON or '', the cause of death as JSON or ''
--
-- Returns { jobs, bytes }.
local max_concurrency, remembered = tonumber(ARGV[3]), tonumber(ARGV[5])
local delays
local function probe_delay(probes)
  if not delays then
    delays = {}
    for delay in string.gmatch(ARGV[4], '%d+') do delays[#delays + 1] = tonumber(delay) end
  end
  return delays[math.min(probes, #delays)]
end

-- Updates the throttle of a lane. throttle.rs has the same rules.
local update_throttle = {
  unknown = function() end,
  not_contacted = function() end,
  succeeded = function(lane)
    if lane.probes >= 0 then lane.limit, lane.probes, lane.open_until = INITIAL_CONCURRENCY, -1, 0 end
    lane.failures, lane.succeeded = 0, 1
    lane.limit = math.min(lane.limit + 1, max_concurrency)
  end,
  paused = function(lane, delay)
    lane.probes = math.max(lane.probes, 0)
    lane.open_until = math.max(lane.open_until, now + delay)
  end,
  failed = function(lane)
    lane.limit = math.max(math.floor(lane.limit / 2), 1)
    lane.failures = lane.failures + 1
    if lane.probes >= 0 then
      -- The attempt began before the breaker opened, so it isn't a probe.
      if now < lane.open_until then return end
      lane.probes = lane.probes + 1
    elseif lane.failures < BREAKER_FAILURES then
      return
    else
      lane.probes = 1
    end
    lane.open_until = now + probe_delay(lane.probes)
  end,
}

-- Appends an attempt to the stored ones, a line each, and drops the oldest.
local function with_attempt(attempts, attempt)
  if attempt == '' then return attempts end
  attempts = attempts == '' and attempt or (attempts .. '\n' .. attempt)
  local _, breaks = string.gsub(attempts, '\n', '')
  if breaks >= KEPT_ATTEMPTS then attempts = string.sub(attempts, string.find(attempts, '\n', 1, true) + 1) end
  return attempts
end

-- Applies the outcome to a job.
local update_job = {
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
  dead = function(job, lane, delay, cause)
    count(job.tenant, -1, -job.bytes)
    call('RENAME', job_key(job.id), dead_key(job.id))
    local died = math.floor(now / 1000)
    call('HSET', dead_key(job.id), 'dead', cause, 'died', whole(died), 'attempts', job.attempts)
    call('HDEL', dead_key(job.id), 'token', 'failures', 'first')
    call('ZADD', deaths_key, whole(died), job.id)
    if job.tenant ~= '' then call('ZADD', deaths_key .. ':' .. job.tenant, whole(died), job.id) end
  end,
  retry = function(job, lane, delay, _, endpoint)
    -- Without a request no retry is used up.
    local failures = job.failures + (endpoint == 'not_contacted' and 0 or 1)
    call('HSET', job_key(job.id), 'failures', whole(failures), 'attempts', job.attempts)
    call('HDEL', job_key(job.id), 'token')
    if failures == 0 then call('HDEL', job_key(job.id), 'first') end
    local due = now + delay
    if lane.ordered == 1 then
      lane.head_due = due
      push_front(lane, job.id)
    else
      call('ZADD', delayed_key(lane), whole(due), job.id)
      if lane.delayed_due == 0 or due < lane.delayed_due then lane.delayed_due = due end
      counts.delayed = counts.delayed + 1
    end
  end,
  -- The claim was cancelled before the job was delivered.
  returned = function(job, lane)
    call('HDEL', job_key(job.id), 'token')
    if job.failures == 0 then call('HDEL', job_key(job.id), 'first') end
    push_front(lane, job.id)
  end,
}

local settled = {}
for at = 6, #ARGV, 7 do
  local id = ARGV[at]
  local fields = call('HMGET', job_key(id), 'token', 'lane', 'tenant', 'bytes', 'failures', 'attempts', 'record')
  if fields[1] == ARGV[at + 1] then
    local lane, delay = lane_of(fields[2]), tonumber(ARGV[at + 4])
    local job = { id = id, tenant = fields[3] or '', bytes = tonumber(fields[4] or '0'),
      failures = tonumber(fields[5] or '0'), record = fields[7] or '',
      attempts = with_attempt(fields[6] or '', ARGV[at + 5]) }
    settled[#settled + 1] = id
    lane.leased = math.max(lane.leased - 1, 0)
    update_throttle[ARGV[at + 3]](lane, delay)
    update_job[ARGV[at + 2]](job, lane, delay, ARGV[at + 6], ARGV[at + 3])
    schedule(lane)
  end
end
if #settled > 0 then call('ZREM', leases_key, unpack(settled)) end
finish({ channel = ARGV[1], message = ARGV[2] })
local jobs, bytes = totals()
return { jobs, bytes }
