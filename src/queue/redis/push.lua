-- Queues jobs, all or none. ARGV: channel, message, most jobs, most bytes (of this shard), whether every lane is
-- ordered, jobs and bytes of the whole push here; then for each job its id, lane, whether it is ordered, tenant or '',
-- record and body. Answers {1 or 0, jobs, bytes}: whether it had room, and what the shard holds now.
local jobs, bytes = totals()
if jobs + ARGV[6] > tonumber(ARGV[3]) or bytes + ARGV[7] > tonumber(ARGV[4]) then return { 0, jobs, bytes } end
local touched = {}
for at = 8, #ARGV, 6 do
  local id, body = ARGV[at], ARGV[at + 5]
  -- One that is queued already isn't queued twice.
  if call('HSETNX', job_key(id), 'lane', ARGV[at + 1]) == 1 then
    local lane = lane_of(ARGV[at + 1])
    call('HSET', job_key(id), 'record', ARGV[at + 4], 'body', body, 'bytes', #body, 'tenant', ARGV[at + 3])
    to_back(lane, id)
    lane.ordered = (ARGV[5] == '1' or ARGV[at + 2] == '1') and 1 or 0
    count(ARGV[at + 3], 1, #body)
    touched[#touched + 1] = lane
  end
end
-- In the order of the push, which is the order of their turns; the second time changes nothing.
for _, lane in ipairs(touched) do place(lane) end
finish({ channel = ARGV[1], message = ARGV[2] })
return { 1, jobs + counts.jobs, bytes + counts.bytes }
