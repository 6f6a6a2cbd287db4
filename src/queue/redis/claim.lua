-- Leases jobs.
--
-- ARGV: 1      maximum number of jobs
--       2      length of a lease in µs
--       3      slots of this process
--       4-6    slots in use: in all, by lanes of new endpoints, by lanes of failing endpoints
--       7      run queue that is served first, modulo 3
--       8, 9   channel and message of the wake-up
--       10     time after which the caller no longer waits for the answer, or 0
--
-- Returns { µs until something becomes due or -1, 1 if lanes were skipped for lack of slots, jobs, bytes, time, { ids of
-- jobs that are missing } }, followed for each lease by { id, token, failures, time of the first attempt, ordered,
-- health, record, body }.
local max, length, slots = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local used = { all = tonumber(ARGV[4]), new = tonumber(ARGV[5]), failing = tonumber(ARGV[6]), well = 0 }
local more_due = false

-- The call was delayed for longer than the caller waits. A lease made now would reach no server and would have to expire.
if ARGV[10] ~= '0' and now > tonumber(ARGV[10]) then
  local jobs, bytes = totals()
  return { '0', 0, jobs, bytes, whole(now), {} }
end

-- An expired lease counts as an attempt. Otherwise a job that crashes its server would be delivered for ever.
local expired = call('ZRANGEBYSCORE', leases_key, '-inf', now, 'LIMIT', 0, MAX_DUE)
for _, id in ipairs(expired) do
  call('ZREM', leases_key, id)
  local lane_id = call('HGET', job_key(id), 'lane')
  if lane_id then
    local lane = lane_of(lane_id)
    lane.leased = math.max(lane.leased - 1, 0)
    call('HINCRBY', job_key(id), 'failures', 1)
    call('HDEL', job_key(id), 'token')
    push_front(lane, id)
    schedule(lane)
  end
end
more_due = #expired == MAX_DUE

local due = call('ZRANGEBYSCORE', timers_key, '-inf', now, 'LIMIT', 0, MAX_DUE)
for _, id in ipairs(due) do
  local lane = lane_of(id)
  if lane.delayed_due > 0 and lane.delayed_due <= now then move_delayed(lane, now, MAX_DUE) end
  schedule(lane)
  if lane.timer == 0 then call('ZREM', timers_key, id) end
end
more_due = more_due or #due == MAX_DUE

-- Returns whether a lane in that run queue may take a slot. Slots are reserved for healthy endpoints, so that hanging
-- endpoints can't take all of them. lanes.rs has the same rule.
local function has_slot(run_queue)
  if used.all >= slots then return false end
  if run_queue == 'well' then return true end
  if used.new + used.failing >= slots - math.floor(slots / HEALTHY_SLOTS_DIVISOR) then return false end
  return run_queue == 'new' or used.failing < math.ceil(slots / FAILING_SLOTS_DIVISOR)
end

local order, first = { 'well', 'new', 'failing' }, tonumber(ARGV[7])
local skipped = { well = 0, new = 0, failing = 0 }
local slots_short = false
local leased, missing = {}, {}
-- Maximum bytes of bodies in one answer, so that large ones come a few at a time.
local answer_bytes, MAX_ANSWER_BYTES = 0, 8388608
local expiry, expiries = whole(now + length), {}
-- The next lanes of each run queue, read in pages of `max`.
local pages, page_at = { well = {}, new = {}, failing = {} }, { well = 1, new = 1, failing = 1 }
local ended = {}
local function next_lane(run_queue)
  if not pages[run_queue][page_at[run_queue]] and not ended[run_queue] then
    pages[run_queue] = call('ZRANGE', run_queues[run_queue], skipped[run_queue], skipped[run_queue] + max - 1)
    page_at[run_queue] = 1
    ended[run_queue] = #pages[run_queue] == 0
  end
  return pages[run_queue][page_at[run_queue]]
end
local function lane_in_turn()
  for step = 0, 2 do
    local run_queue = order[(first + step) % 3 + 1]
    local id = next_lane(run_queue)
    if id and has_slot(run_queue) then
      page_at[run_queue] = page_at[run_queue] + 1
      first = (first + step + 1) % 3
      return run_queue, id
    end
    slots_short = slots_short or id ~= nil
  end
end
while #leased < max and answer_bytes < MAX_ANSWER_BYTES do
  local run_queue, id = lane_in_turn()
  if not run_queue then break end
  local lane = lane_of(id)
  if lane.run_queue ~= run_queue then
    -- The stored state of the lane is missing, or names another run queue. Repair the run queue.
    call('ZREM', run_queues[run_queue], id)
    schedule(lane)
  elseif slots - used.all <= lane.leased * FREE_SLOTS_PER_LEASE then
    -- The lane already has its share of the free slots. lanes.rs has the same rule.
    skipped[run_queue], slots_short = skipped[run_queue] + 1, true
  else
    local job = call('LPOP', ready_key(lane))
    lane.ready = job and math.max(lane.ready - 1, 0) or 0
    local fields = job and call('HMGET', job_key(job), 'record', 'body', 'failures', 'first')
    if fields and fields[1] then
      local token = whole(next_serial())
      local first_at = fields[4] or whole(now)
      call('HSET', job_key(job), 'token', token, 'first', first_at)
      expiries[#expiries + 1], expiries[#expiries + 2] = expiry, job
      answer_bytes = answer_bytes + #(fields[2] or '')
      lane.leased, lane.head_due = lane.leased + 1, 0
      used.all, used[run_queue] = used.all + 1, used[run_queue] + 1
      leased[#leased + 1] = { job, token, fields[3] or '0', first_at, lane.ordered, run_queue, fields[1], fields[2] }
    elseif job then
      missing[#missing + 1] = job
      count(call('HGET', job_key(job), 'tenant'), -1, -tonumber(call('HGET', job_key(job), 'bytes') or '0'))
      call('DEL', job_key(job))
    end
    schedule(lane, true)
  end
end

-- unpack takes some thousands of values. MAX_JOBS_PER_CALL in claim.rs keeps well below that.
if #expiries > 0 then call('ZADD', leases_key, unpack(expiries)) end

local function first_score(key)
  return tonumber(call('ZRANGE', key, 0, 0, 'WITHSCORES')[2] or '0')
end
local next_due = first_score(timers_key)
local next_expiry = first_score(leases_key)
if next_expiry > 0 and (next_due == 0 or next_expiry < next_due) then next_due = next_expiry end
local wait = next_due == 0 and -1 or math.max(next_due - now, 0)
if more_due or answer_bytes >= MAX_ANSWER_BYTES then wait = 0 end
-- Other servers are notified only if this one leaves work to them.
notify = notify and (#leased == max or slots_short)
finish({ channel = ARGV[8], message = ARGV[9] })
local jobs, bytes = totals()
local answer = { whole(wait), slots_short and 1 or 0, jobs, bytes, whole(now), missing }
for _, lease in ipairs(leased) do answer[#answer + 1] = lease end
return answer
