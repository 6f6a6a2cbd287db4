-- Queues jobs, all or none.
--
-- ARGV: 1, 2   channel and message of the wake-up
--       3, 4   maximum jobs and bytes of the shard
--       5      whether every lane is ordered
--       6, 7   jobs and bytes of the whole push to this shard
--       8-     for each job: id, lane, whether its lane is ordered, tenant or '', record, body
--
-- Returns { 1 if there was room or 0, jobs, bytes }, with the jobs and bytes that the shard holds now.
local jobs, bytes = totals()
if jobs + ARGV[6] > tonumber(ARGV[3]) or bytes + ARGV[7] > tonumber(ARGV[4]) then return { 0, jobs, bytes } end
local touched = {}
for at = 8, #ARGV, 6 do
  local id, body = ARGV[at], ARGV[at + 5]
  -- A job that is queued already isn't queued again.
  if call('HSETNX', job_key(id), 'lane', ARGV[at + 1]) == 1 then
    local lane = lane_of(ARGV[at + 1])
    call('HSET', job_key(id), 'record', ARGV[at + 4], 'body', body, 'bytes', #body, 'tenant', ARGV[at + 3])
    push_back(lane, id)
    lane.ordered = (ARGV[5] == '1' or ARGV[at + 2] == '1') and 1 or 0
    count(ARGV[at + 3], 1, #body)
    touched[#touched + 1] = lane
  end
end
-- Lanes get their turns in the order of the push. For a lane that occurs twice the second call changes nothing.
for _, lane in ipairs(touched) do schedule(lane) end
finish({ channel = ARGV[1], message = ARGV[2] })
return { 1, jobs + counts.jobs, bytes + counts.bytes }
