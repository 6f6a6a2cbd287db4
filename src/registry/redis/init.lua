-- Creates the registry if it doesn't exist, and returns its format, id and check value.
--
-- KEYS[1]  {prefix:registry}
-- ARGV     format, id, mark and check value of a new registry
-- Returns  format, id, check value
local meta, records = KEYS[1] .. ':meta', KEYS[1] .. ':records'
if redis.call('EXISTS', meta) == 0 then
    if redis.call('EXISTS', records) == 1 then
        return redis.error_reply('ERR ' .. meta .. ' is missing, though ' .. records .. ' is there')
    end
    redis.call('DEL', KEYS[1] .. ':changes')
    redis.call('HSET', meta, 'format', ARGV[1], 'id', ARGV[2], 'version', '1', 'mark', ARGV[3], 'check', ARGV[4])
    redis.call('XADD', KEYS[1] .. ':changes', '1-0', 'mark', ARGV[3], 'writes', '[]')
end
return redis.call('HMGET', meta, 'format', 'id', 'check')
