-- The common part of all scripts. scripts.rs puts it in front of each, after the constants that Rust defines.
-- Names in capitals that no script defines are among these constants.
--
-- KEYS[1] is the tag of the shard. Every key starts with it, so all keys of a shard are in one hash slot. redis.rs
-- documents the keys; lanes.rs and throttle.rs document the scheduling rules that the scripts follow. All times are in
-- microseconds of Redis' clock.
--
-- A script reads the state of each lane once, with lane_of, and writes it back in finish.

local tag, call = KEYS[1], redis.call
local time = call('TIME')
local now = time[1] * 1000000 + time[2]

-- Formats a number without exponent: times don't fit into the 14 digits that Lua prints.
local function whole(number) return string.format('%.0f', number) end
local function job_key(id) return tag .. ':job:' .. id end
local function dead_key(id) return tag .. ':dead:' .. id end
local function ready_key(lane) return tag .. ':ready:' .. lane.id end
-- "aside" is the stored name of delayed jobs. It is renamed with the next format.
local function delayed_key(lane) return tag .. ':aside:' .. lane.id end

local leases_key, timers_key, deaths_key = tag .. ':leases', tag .. ':timers', tag .. ':deaths'
-- One run queue for each health of an endpoint. "well" is the stored name of healthy.
local run_queues = { well = tag .. ':well', new = tag .. ':new', failing = tag .. ':failing' }

-- Milliseconds for which the state of a lane without jobs is remembered.
local IDLE_LANE_MS = 3600000
-- Maximum number of due entries that one call moves, so that it doesn't block Redis for long.
local MAX_DUE = 200

-- Returns the next serial number. Lease tokens and turns in a run queue use them. They are never below the clock, so a
-- Redis that lost its data doesn't issue a number twice.
local serial
local function next_serial()
  if not serial then serial = math.max(tonumber(call('GET', tag .. ':serial') or '0'), now) end
  serial = serial + 1
  return serial
end

-- Changes of the counters, written in finish.
local counts = { jobs = 0, bytes = 0, delayed = 0 }
local tenant_jobs, tenant_bytes = {}, {}
local function count(tenant, jobs, bytes)
  counts.jobs, counts.bytes = counts.jobs + jobs, counts.bytes + bytes
  if tenant and tenant ~= '' then
    tenant_jobs[tenant] = (tenant_jobs[tenant] or 0) + jobs
    tenant_bytes[tenant] = (tenant_bytes[tenant] or 0) + bytes
  end
end

-- Lanes that this call has read, and whether a waiting claim of another server has to be notified.
local lanes, notify = {}, false
-- The stored text of a lane: eleven numbers and the name of its run queue, in this order.
local LANE_PATTERN = '^' .. string.rep('(%-?%d+) ', 11) .. '(%S+)$'
local LANE_FORMAT = string.rep('%.0f ', 11) .. '%s'

-- Returns the state of a lane. A lane without stored state gets the defaults of a new endpoint.
local function lane_of(id)
  local lane = lanes[id]
  if lane then return lane end
  lane = { id = id, limit = INITIAL_CONCURRENCY, failures = 0, succeeded = 0, probes = -1, open_until = 0, ordered = 0,
           leased = 0, head_due = 0, delayed_due = 0, timer = 0, ready = 0, run_queue = '-' }
  local text = call('GET', tag .. ':lane:' .. id)
  if text then
    local limit, failures, succeeded, probes, open_until, ordered, leased, head_due, delayed_due, timer, ready,
      run_queue = string.match(text, LANE_PATTERN)
    if limit then
      lane.limit, lane.failures, lane.succeeded = tonumber(limit), tonumber(failures), tonumber(succeeded)
      lane.probes, lane.open_until, lane.ordered = tonumber(probes), tonumber(open_until), tonumber(ordered)
      lane.leased, lane.head_due, lane.delayed_due = tonumber(leased), tonumber(head_due), tonumber(delayed_due)
      lane.timer, lane.ready, lane.run_queue = tonumber(timer), tonumber(ready), run_queue
    end
  else
    lane.ready = call('LLEN', ready_key(lane))
  end
  lanes[id] = lane
  return lane
end

-- Returns the health of a lane's endpoint, which is the name of its run queue.
local function health(lane)
  if lane.failures > 0 then return 'failing' end
  return lane.succeeded == 1 and 'well' or 'new'
end

-- Returns the maximum number of leases at once. `probes` is -1 while the breaker is closed.
local function max_leases(lane)
  return (lane.ordered == 1 or lane.probes >= 0) and 1 or lane.limit
end

-- Puts a lane into its run queue if a job can be leased now, and removes it otherwise. Sets the timer for the next time
-- something becomes due. `served` says that the lane just had its turn and goes to the end of its run queue.
local function schedule(lane, served)
  local run_queue, timer = '-', lane.delayed_due
  if lane.ready > 0 and lane.leased < max_leases(lane) then
    local blocked_until = math.max(lane.head_due, lane.open_until)
    if blocked_until <= now then
      run_queue = health(lane)
    elseif timer == 0 or blocked_until < timer then
      timer = blocked_until
    end
  end
  if run_queue ~= lane.run_queue and lane.run_queue ~= '-' then call('ZREM', run_queues[lane.run_queue], lane.id) end
  if run_queue ~= '-' and (run_queue ~= lane.run_queue or served) then
    call('ZADD', run_queues[run_queue], whole(next_serial()), lane.id)
    notify = notify or not served
  end
  if timer ~= lane.timer then
    if timer == 0 then
      call('ZREM', timers_key, lane.id)
    else
      call('ZADD', timers_key, whole(timer), lane.id)
    end
  end
  lane.run_queue, lane.timer = run_queue, timer
end

local function push_back(lane, id)
  call('RPUSH', ready_key(lane), id)
  lane.ready = lane.ready + 1
end

local function push_front(lane, id)
  call('LPUSH', ready_key(lane), id)
  lane.ready = lane.ready + 1
end

-- Moves delayed jobs that are due at `due` to the end of their lane, at most `max`. Returns how many were moved.
local function move_delayed(lane, due, max)
  local ids = call('ZRANGEBYSCORE', delayed_key(lane), '-inf', due, 'LIMIT', 0, max)
  for _, id in ipairs(ids) do
    call('ZREM', delayed_key(lane), id)
    push_back(lane, id)
  end
  local first = call('ZRANGE', delayed_key(lane), 0, 0, 'WITHSCORES')
  lane.delayed_due = tonumber(first[2] or '0')
  counts.delayed = counts.delayed - #ids
  return #ids
end

-- Writes lanes and counters back, and publishes the wake-up if one is needed. `wake_up` is its channel and message.
local function finish(wake_up)
  for id, lane in pairs(lanes) do
    local text = string.format(LANE_FORMAT, lane.limit, lane.failures, lane.succeeded, lane.probes, lane.open_until,
      lane.ordered, lane.leased, lane.head_due, lane.delayed_due, lane.timer, lane.ready, lane.run_queue)
    if lane.ready == 0 and lane.leased == 0 and lane.delayed_due == 0 then
      call('SET', tag .. ':lane:' .. id, text, 'PX', IDLE_LANE_MS)
    else
      call('SET', tag .. ':lane:' .. id, text)
    end
  end
  for name, change in pairs(counts) do
    if change ~= 0 then call('HINCRBY', tag .. ':counts', name, whole(change)) end
  end
  for tenant, change in pairs(tenant_jobs) do
    if call('HINCRBY', tag .. ':tenant_jobs', tenant, whole(change)) <= 0 then
      call('HDEL', tag .. ':tenant_jobs', tenant)
      call('HDEL', tag .. ':tenant_bytes', tenant)
    elseif tenant_bytes[tenant] ~= 0 then
      call('HINCRBY', tag .. ':tenant_bytes', tenant, whole(tenant_bytes[tenant]))
    end
  end
  if serial then call('SET', tag .. ':serial', whole(serial)) end
  if notify then call('PUBLISH', wake_up.channel, wake_up.message) end
end

-- Returns the jobs and bytes that the shard holds.
local function totals()
  local stored = call('HMGET', tag .. ':counts', 'jobs', 'bytes')
  return tonumber(stored[1] or '0') or 0, tonumber(stored[2] or '0') or 0
end
