-- Resets the throttles of lanes and makes their delayed jobs due at once.
--
-- ARGV: 1, 2   channel and message of the wake-up
--       3-     lanes
--
-- Returns 1 if delayed jobs are left, so that the script has to be called again, or 0.
local left, more = 1000, 0
for at = 3, #ARGV do
  local lane = lane_of(ARGV[at])
  lane.limit, lane.failures, lane.succeeded, lane.probes, lane.open_until = INITIAL_CONCURRENCY, 0, 0, -1, 0
  lane.head_due = 0
  if lane.delayed_due > 0 then
    left = left - move_delayed(lane, '+inf', math.max(left, 1))
    if lane.delayed_due > 0 then more = 1 end
  end
  schedule(lane)
end
finish({ channel = ARGV[1], message = ARGV[2] })
return more
