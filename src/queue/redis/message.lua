-- Reads one message.
--
-- ARGV: 1      id
--       2      1 to read a dead letter with its body; messages in other states are then not found
--
-- Returns {} if there is no such message, else { state, record, attempts, cause of death, time of death in ms, bytes,
-- tenant, body }. The state is job, dead or done.
local id, with_body = ARGV[1], ARGV[2] == '1'
local fields = { 'record', 'attempts', 'dead', 'died', 'bytes', 'tenant' }
if with_body then fields[7] = 'body' end
for _, state in ipairs({ 'job', 'dead' }) do
  local found = call('HMGET', tag .. ':' .. state .. ':' .. id, unpack(fields))
  if found[5] and not (with_body and state == 'job') then
    local answer = { state }
    for at = 1, 6 do answer[at + 1] = found[at] or (fields[at] == 'died' and '0' or '') end
    answer[8] = found[7] or false
    return answer
  end
end
local done = not with_body and call('GET', tag .. ':done:' .. id)
if not done then return {} end
local record, attempts = string.match(done, '^([^\n]*)\n(.*)$')
return { 'done', record or '', attempts or '', '', '0', '0', '', false }
