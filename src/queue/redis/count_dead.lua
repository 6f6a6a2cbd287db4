-- Counts dead letters.
--
-- ARGV: 1      tenant or ''
--       2, 3   earliest and latest time of death in ms, as ZCOUNT takes them
local key = ARGV[1] == '' and deaths_key or (deaths_key .. ':' .. ARGV[1])
return call('ZCOUNT', key, ARGV[2], ARGV[3])
