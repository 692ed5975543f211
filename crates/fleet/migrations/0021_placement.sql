-- What placement keeps in memory of each host it reads anew when `changed`, taken from a counter that
-- only grows, is greater than what it has seen. `last_placed` is where that counter was when a VM was
-- last put on the host. VMs of one `spread_group` are put apart.

ALTER TABLE hosts ADD COLUMN changed BIGINT NOT NULL DEFAULT 0;
ALTER TABLE hosts ADD COLUMN last_placed BIGINT NOT NULL DEFAULT 0;
CREATE INDEX hosts_by_changed ON hosts (changed);

ALTER TABLE vms ADD COLUMN spread_group TEXT;
CREATE INDEX vms_by_spread_group ON vms (COALESCE(team_id, ''), spread_group);
