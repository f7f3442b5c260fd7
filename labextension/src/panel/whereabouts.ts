import type { ServiceManager } from '@jupyterlab/services';

import { baseName } from '../format';
import type { SnapshotModel } from '../model';
import type { ISnapshot } from '../types';

/** Instead of a name: of the kernel of which it goes without saying. */
export const HERE = '';

/**
 * At which snapshots the kernels are that run.
 */
export class Whereabouts {
  constructor(
    private readonly model: SnapshotModel,
    private readonly services: ServiceManager.IManager
  ) {}

  /**
   * Names of the notebooks of kernels that are at a snapshot; `HERE` for the one that is
   * meant by the list anyway. The same array as long as it says the same.
   *
   * @param snapshot Whose kernel is meant anyway where lists are by notebook, whether or not
   * it still runs.
   * @param current Where they are not: the kernel that the person works with.
   */
  at(snapshot: ISnapshot, current: string | null): readonly string[] {
    const found: string[] = [];
    for (const kernelId of this.model.kernelsAt(snapshot.name)) {
      if (kernelId === (current ?? snapshot.kernel_id)) {
        found.unshift(HERE);
      } else {
        const name = this.nameOf(kernelId);
        if (name) {
          found.push(name);
        }
      }
    }
    return this.same(found);
  }

  /** What a kernel that runs is called; empty if it has ended. */
  private nameOf(kernelId: string): string {
    const { kernels, sessions } = this.services;
    for (const session of sessions.running()) {
      if (session.kernel?.id === kernelId) {
        return baseName(session.path) || session.name;
      }
    }
    for (const kernel of kernels.running()) {
      if (kernel.id === kernelId) {
        return kernel.name;
      }
    }
    return '';
  }

  private same(names: readonly string[]): readonly string[] {
    const key = JSON.stringify(names);
    const known = this.known.get(key) ?? names;
    this.known.set(key, known);
    return known;
  }

  private readonly known = new Map<string, readonly string[]>();
}
