-- What every script begins with: the shard's keys, the one clock, lanes that are read once and written back at the
-- end. KEYS[1] is the shard's tag, and every other key is made from it, so all are in one hash slot. See redis.rs for
-- what the keys hold, lanes.rs and throttle.rs for the rules that are kept here.

local tag, call = KEYS[1], redis.call
local time = call('TIME')
local now = time[1] * 1000000 + time[2]

local function whole(number) return string.format('%.0f', number) end
local function job_key(id) return tag .. ':job:' .. id end
local function dead_key(id) return tag .. ':dead:' .. id end
local function ready_key(lane) return tag .. ':ready:' .. lane.id end
local function aside_key(lane) return tag .. ':aside:' .. lane.id end

local leases_key, timers_key, deaths_key = tag .. ':leases', tag .. ':timers', tag .. ':deaths'
local rings = { well = tag .. ':well', new = tag .. ':new', failing = tag .. ':failing' }

-- Lanes without jobs are remembered for so long, in milliseconds.
local IDLE = 3600000
-- Probes and slow start: see throttle.rs.
local START, BREAKER_FAILURES = 1, 5
-- What one call moves of what has become due, so that it stays short.
local MOST_DUE = 200

-- Numbers that only grow: lease tokens, and turns in a ring. Never below the clock, so a Redis that lost its data
-- gives out none again.
local serial
local function next_serial()
  if not serial then serial = math.max(tonumber(call('GET', tag .. ':serial') or '0'), now) end
  serial = serial + 1
  return serial
end

local counts = { jobs = 0, bytes = 0, delayed = 0 }
local tenant_jobs, tenant_bytes = {}, {}
local function count(tenant, jobs, bytes)
  counts.jobs, counts.bytes = counts.jobs + jobs, counts.bytes + bytes
  if tenant and tenant ~= '' then
    tenant_jobs[tenant] = (tenant_jobs[tenant] or 0) + jobs
    tenant_bytes[tenant] = (tenant_bytes[tenant] or 0) + bytes
  end
end

local lanes, woken = {}, false
local LANE_READ = '^' .. string.rep('(%-?%d+) ', 11) .. '(%S+)$'
local LANE_WRITTEN = string.rep('%.0f ', 11) .. '%s'

local function lane_of(id)
  local lane = lanes[id]
  if lane then return lane end
  lane = { id = id, limit = START, failures = 0, succeeded = 0, probes = -1, closed_until = 0, ordered = 0, leased = 0,
           head_due = 0, aside_due = 0, timer = 0, ready = 0, ring = '-' }
  local text = call('GET', tag .. ':lane:' .. id)
  if text then
    local limit, failures, succeeded, probes, closed_until, ordered, leased, head_due, aside_due, timer, ready, ring =
      string.match(text, LANE_READ)
    if limit then
      lane.limit, lane.failures, lane.succeeded = tonumber(limit), tonumber(failures), tonumber(succeeded)
      lane.probes, lane.closed_until, lane.ordered = tonumber(probes), tonumber(closed_until), tonumber(ordered)
      lane.leased, lane.head_due, lane.aside_due = tonumber(leased), tonumber(head_due), tonumber(aside_due)
      lane.timer, lane.ready, lane.ring = tonumber(timer), tonumber(ready), ring
    end
  else
    lane.ready = call('LLEN', ready_key(lane))
  end
  lanes[id] = lane
  return lane
end

local function standing(lane)
  if lane.failures > 0 then return 'failing' end
  return lane.succeeded == 1 and 'well' or 'new'
end

-- Leases that it may have at once.
local function room(lane)
  return (lane.ordered == 1 or lane.probes >= 0) and 1 or lane.limit
end

-- Puts a lane into the ring it belongs to, if it has something to lease, and sets the timer that looks again.
-- `served`: it was its turn just now.
local function place(lane, served)
  local ring, timer = '-', lane.aside_due
  if lane.ready > 0 and lane.leased < room(lane) then
    local held_until = math.max(lane.head_due, lane.closed_until)
    if held_until <= now then
      ring = standing(lane)
    elseif timer == 0 or held_until < timer then
      timer = held_until
    end
  end
  if ring ~= lane.ring and lane.ring ~= '-' then call('ZREM', rings[lane.ring], lane.id) end
  if ring ~= '-' and (ring ~= lane.ring or served) then
    call('ZADD', rings[ring], whole(next_serial()), lane.id)
    woken = woken or not served
  end
  if timer ~= lane.timer then
    if timer == 0 then
      call('ZREM', timers_key, lane.id)
    else
      call('ZADD', timers_key, whole(timer), lane.id)
    end
  end
  lane.ring, lane.timer = ring, timer
end

local function to_back(lane, id)
  call('RPUSH', ready_key(lane), id)
  lane.ready = lane.ready + 1
end

local function to_front(lane, id)
  call('LPUSH', ready_key(lane), id)
  lane.ready = lane.ready + 1
end

-- Jobs that waited aside until `due` go to the end of their lane; how many.
local function end_waits(lane, due, most)
  local ids = call('ZRANGEBYSCORE', aside_key(lane), '-inf', due, 'LIMIT', 0, most)
  for _, id in ipairs(ids) do
    call('ZREM', aside_key(lane), id)
    to_back(lane, id)
  end
  local first = call('ZRANGE', aside_key(lane), 0, 0, 'WITHSCORES')
  lane.aside_due = tonumber(first[2] or '0')
  counts.delayed = counts.delayed - #ids
  return #ids
end

-- Writes back what has changed. `origin` rings nobody who published it, see subscription.rs.
local function finish(origin)
  for id, lane in pairs(lanes) do
    local text = string.format(LANE_WRITTEN, lane.limit, lane.failures, lane.succeeded, lane.probes, lane.closed_until,
      lane.ordered, lane.leased, lane.head_due, lane.aside_due, lane.timer, lane.ready, lane.ring)
    if lane.ready == 0 and lane.leased == 0 and lane.aside_due == 0 then
      call('SET', tag .. ':lane:' .. id, text, 'PX', IDLE)
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
  if woken then call('PUBLISH', origin.channel, origin.message) end
end

local function totals()
  local held = call('HMGET', tag .. ':counts', 'jobs', 'bytes')
  return tonumber(held[1] or '0') or 0, tonumber(held[2] or '0') or 0
end
