import type { JupyterFrontEnd } from '@jupyterlab/application';
import { InputDialog } from '@jupyterlab/apputils';
import type { ReadonlyPartialJSONObject } from '@lumino/coreutils';

import type { SnapshotModel } from './model';
import type { Targets } from './targets';
import type { ISnapshot } from './types';

/** Of a row of the panel; `data-snapshot` is the snapshot's name. */
export const ROW_CLASS = 'jp-cr-Row';

/**
 * Which snapshot a command is about.
 */
export class Meant {
  constructor(
    private readonly app: JupyterFrontEnd,
    private readonly model: SnapshotModel,
    private readonly targets: Targets
  ) {}

  /** The name of the snapshot that is meant: given, or clicked on. */
  nameOf(args: ReadonlyPartialJSONObject): string | undefined {
    if (typeof args.snapshot === 'string') {
      return args.snapshot;
    }
    const isRow = (node: HTMLElement) => node.classList.contains(ROW_CLASS);
    return args.isContext
      ? this.app.contextMenuHitTest(isRow)?.dataset.snapshot
      : undefined;
  }

  /** That snapshot, if there is one. */
  of(args: ReadonlyPartialJSONObject): ISnapshot | undefined {
    const name = this.nameOf(args);
    return name === undefined ? undefined : this.model.get(name);
  }

  /**
   * The snapshot that is meant; asked for if it is not plain.
   *
   * @param isFit Whether one can be chosen.
   */
  async choose(
    args: ReadonlyPartialJSONObject,
    title: string,
    isFit: (snapshot: ISnapshot) => boolean = () => true
  ): Promise<ISnapshot | undefined> {
    if (this.nameOf(args) !== undefined) {
      return this.of(args);
    }
    const kernelId = this.targets.current?.kernelId;
    const names = this.model.snapshots
      .filter(isFit)
      .sort(
        (a, b) =>
          Number(b.kernel_id === kernelId) - Number(a.kernel_id === kernelId)
      )
      .map(snapshot => snapshot.name);
    const { value } = await InputDialog.getItem({
      title,
      items: names,
      editable: false
    });
    return value === null ? undefined : this.model.get(value);
  }
}
