-- Leases up to ARGV[1] jobs. Then: a lease's length in µs, this process's slots, and what it holds of them in all, for
-- new and for failing lanes; which standing has the first turn; channel and message; until when somebody waits for the
-- answer, or 0. Answers {µs until something becomes due, or -1, whether lanes were passed over for want of slots, jobs,
-- bytes, the time, {lost ids}, then for each lease {id, token, failures, first attempt in µs, ordered, standing, record,
-- body}}.
local max, length, slots = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local held = { all = tonumber(ARGV[4]), new = tonumber(ARGV[5]), failing = tonumber(ARGV[6]), well = 0 }
local again = false

-- Redis was away for longer than that, and nobody would take what is leased now.
if ARGV[10] ~= '0' and now > tonumber(ARGV[10]) then
  local jobs, bytes = totals()
  return { '0', 0, jobs, bytes, whole(now), {} }
end

-- Leases that ran out count as attempts: what breaks its attempts off must not do so for ever.
local ran_out = call('ZRANGEBYSCORE', leases_key, '-inf', now, 'LIMIT', 0, MOST_DUE)
for _, id in ipairs(ran_out) do
  call('ZREM', leases_key, id)
  local lane_id = call('HGET', job_key(id), 'lane')
  if lane_id then
    local lane = lane_of(lane_id)
    lane.leased = math.max(lane.leased - 1, 0)
    call('HINCRBY', job_key(id), 'failures', 1)
    call('HDEL', job_key(id), 'token')
    to_front(lane, id)
    place(lane)
  end
end
again = #ran_out == MOST_DUE

local due = call('ZRANGEBYSCORE', timers_key, '-inf', now, 'LIMIT', 0, MOST_DUE)
for _, id in ipairs(due) do
  local lane = lane_of(id)
  if lane.aside_due > 0 and lane.aside_due <= now then end_waits(lane, now, MOST_DUE) end
  place(lane)
  if lane.timer == 0 then call('ZREM', timers_key, id) end
end
again = again or #due == MOST_DUE

-- However many endpoints hang, one that answers finds a slot: see has_slot_for in lanes.rs.
local function has_slot(ring)
  if held.all >= slots then return false end
  if ring == 'well' then return true end
  if held.new + held.failing >= slots - math.floor(slots / 4) then return false end
  return ring == 'new' or held.failing < math.ceil(slots / 2)
end

local turns, first = { 'well', 'new', 'failing' }, tonumber(ARGV[7])
local passed = { well = 0, new = 0, failing = 0 }
local short = false
local leased, lost = {}, {}
local expiry, expiries = whole(now + length), {}
-- Lanes of each ring in their order, as many as may be wanted; asked for again once all of them had a turn.
local next_lanes, next_at = { well = {}, new = {}, failing = {} }, { well = 1, new = 1, failing = 1 }
local ended = {}
local function next_lane(ring)
  if not next_lanes[ring][next_at[ring]] and not ended[ring] then
    next_lanes[ring] = call('ZRANGE', rings[ring], passed[ring], passed[ring] + max - 1)
    next_at[ring] = 1
    ended[ring] = #next_lanes[ring] == 0
  end
  return next_lanes[ring][next_at[ring]]
end
local function lane_in_turn()
  for step = 0, 2 do
    local ring = turns[(first + step) % 3 + 1]
    local id = next_lane(ring)
    if id and has_slot(ring) then
      next_at[ring] = next_at[ring] + 1
      first = (first + step + 1) % 3
      return ring, id
    end
    short = short or id ~= nil
  end
end
while #leased < max do
  local ring, id = lane_in_turn()
  if not ring then break end
  local lane = lane_of(id)
  if lane.ring ~= ring then
    -- Its state was forgotten, or it was: put right what the ring says.
    call('ZREM', rings[ring], id)
    place(lane)
  elseif slots - held.all <= lane.leased * 4 then
    -- It holds a share of the free slots at most: see leaves_slots in lanes.rs.
    passed[ring], short = passed[ring] + 1, true
  else
    local job = call('LPOP', ready_key(lane))
    lane.ready = job and math.max(lane.ready - 1, 0) or 0
    local found = job and call('HMGET', job_key(job), 'record', 'body', 'failures', 'first')
    if found and found[1] then
      local token = whole(next_serial())
      local first_at = found[4] or whole(now)
      call('HSET', job_key(job), 'token', token, 'first', first_at)
      expiries[#expiries + 1], expiries[#expiries + 2] = expiry, job
      lane.leased, lane.head_due = lane.leased + 1, 0
      held.all, held[ring] = held.all + 1, held[ring] + 1
      leased[#leased + 1] = { job, token, found[3] or '0', first_at, lane.ordered, ring, found[1], found[2] }
    elseif job then
      lost[#lost + 1] = job
      count(call('HGET', job_key(job), 'tenant'), -1, -tonumber(call('HGET', job_key(job), 'bytes') or '0'))
      call('DEL', job_key(job))
    end
    place(lane, true)
  end
end

-- Well within what unpack takes: see claim.rs for the most that is asked for.
if #expiries > 0 then call('ZADD', leases_key, unpack(expiries)) end

local function first_of(key)
  return tonumber(call('ZRANGE', key, 0, 0, 'WITHSCORES')[2] or '0')
end
local next_due = first_of(timers_key)
local runs_out = first_of(leases_key)
if runs_out > 0 and (next_due == 0 or runs_out < next_due) then next_due = runs_out end
local wait = next_due == 0 and -1 or math.max(next_due - now, 0)
if again then wait = 0 end
woken = woken and (#leased == max or short)
finish({ channel = ARGV[8], message = ARGV[9] })
local jobs, bytes = totals()
local answer = { whole(wait), short and 1 or 0, jobs, bytes, whole(now), lost }
for _, lease in ipairs(leased) do answer[#answer + 1] = lease end
return answer
